/* What main.c needs of a board. */
#ifndef BOARD_H
#define BOARD_H
#include <stdint.h>

extern const uint8_t board_model[];                    /* where model.trwkv lies */
extern uint32_t board_stack_low[], board_stack_high[]; /* from the lowest word to the top */

int board_get(void);         /* wait for a byte, and return it */
void board_put(int byte);    /* send a byte */
void board_stop(int status); /* an emulator exits, a chip stands still */
uint32_t board_clock(void);  /* a clock that counts up, for the trace alone */
int main(void);
#endif
