/* A model on a chip without an operating system: see rwkv.c. */
#ifndef RWKV_H
#define RWKV_H
#include <stddef.h>
#include <stdint.h>

/* Check the model file, the kernels and the program; return what is wrong, or NULL. */
const char *rwkv_begin(const uint8_t *model);

/* Put the tokens of n bytes into ids; return how many, or -1 if there are more than `most`. */
int rwkv_encode(const char *text, int n, int32_t *ids, int most);

/* Forget everything that was read. */
void rwkv_forget(void);

/* Read tokens; return the logits after the last one. */
const float *rwkv_read(const int32_t *ids, int count);

/* Return the most probable token; of those that the grammar allows after `state`, unless it is 0. */
int rwkv_choose(const float *logits, int state);

/* Return the state of the grammar after a token, 0 if it does not fit. Texts begin in state 1. */
int rwkv_follow(int state, int token);

/* Return the bytes of a token and their number. */
const uint8_t *rwkv_bytes(int token, int *n);

/* Tell whether n bytes differ. */
int rwkv_differ(const void *a, const void *b, size_t n);

/* Return the CRC-32 of n bytes after those that gave `before`; 0 if there were none. */
uint32_t rwkv_crc32(uint32_t before, const void *data, size_t n);
#endif
