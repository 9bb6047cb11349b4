/* Load a model file where it lies in memory, and run it with the kernels of tinyrwkv.

   Nothing is allocated: two states, the workspaces and one row of logits are all that changes.
   rwkv_model.h, which tinyrwkv-convert --mcu writes, has every size and offset. */
#include "rwkv.h"

#include "rwkv_model.h"

extern const char tinyrwkv_kernels[];
void tinyrwkv_run(int64_t *arguments);

/* A board may have other memory for what is large: -DRWKV_STATES='__attribute__((section("x")))'. */
#ifndef RWKV_STATES
#define RWKV_STATES
#endif
#ifndef RWKV_WORKSPACES
#define RWKV_WORKSPACES
#endif
#define LINE __attribute__((aligned(64)))

static const uint8_t *file;
static int64_t arguments[RWKV_ARGUMENTS];
static uint8_t barrier[RWKV_BARRIER_BYTES] LINE;
static float logits[RWKV_VOCABULARY] LINE;
static float states[2][RWKV_STATE_FLOATS] LINE RWKV_STATES;
static uint8_t shared[RWKV_SHARED_BYTES] LINE RWKV_WORKSPACES;
static uint8_t private[RWKV_PRIVATE_BYTES] LINE RWKV_WORKSPACES;
static int newest; /* which of the two states was written last */

/* What compilers call for loops that clear or copy. */
void *memset(void *to, int value, size_t n) {
    volatile uint8_t *bytes = to; /* or this loop would become a call of memset */
    while (n--) *bytes++ = (uint8_t)value;
    return to;
}

void *memcpy(void *to, const void *from, size_t n) {
    volatile uint8_t *bytes = to;
    const uint8_t *source = from;
    while (n--) *bytes++ = *source++;
    return to;
}

uint32_t rwkv_crc32(uint32_t before, const void *data, size_t n) {
    static uint32_t table[256];
    const uint8_t *bytes = data;
    uint32_t crc = ~before;
    if (!table[1])
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t value = i;
            for (int bit = 0; bit < 8; bit++) value = value >> 1 ^ (value & 1 ? 0xEDB88320u : 0);
            table[i] = value;
        }
    while (n--) crc = crc >> 8 ^ table[(crc ^ *bytes++) & 255];
    return ~crc;
}

int rwkv_differ(const void *a, const void *b, size_t n) {
    const uint8_t *one = a, *other = b;
    while (n-- > 0)
        if (*one++ != *other++) return 1;
    return 0;
}

static uint32_t number(const uint8_t *at) {
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static int64_t address(const void *at) { return (int64_t)(uintptr_t)at; }

const char *rwkv_begin(const uint8_t *model) {
    if (rwkv_differ(model, "\x93TRWKV\r\n", 8))
        return "there is no .trwkv file; flash model.trwkv";
    if (number(model + 60) != RWKV_HEADER_CRC || rwkv_crc32(0, model, 60) != RWKV_HEADER_CRC)
        return "the file is another model than rwkv_model.h; flash the model.trwkv beside it";
    if (rwkv_crc32(0, model, RWKV_FILE_BYTES) != RWKV_FILE_CRC)
        return "the file is damaged; flash model.trwkv again";
    if (rwkv_differ(tinyrwkv_kernels, RWKV_KERNELS, sizeof RWKV_KERNELS))
        return "rwkv_kernels.o and rwkv_model.h were not made together; link them anew";
    if (rwkv_crc32(0, rwkv_program, sizeof rwkv_program) != RWKV_PROGRAM_CRC)
        return "the program is damaged; flash the firmware again";
    const uint32_t epsilon = RWKV_EPSILON_BITS;
    const float one = 1;
    memcpy(shared + RWKV_EPSILON, &epsilon, 4);
    for (int c = 0; c < RWKV_CHANNELS; c++) memcpy(shared + RWKV_ONES + 4 * c, &one, 4);
    file = model;
    arguments[RWKV_WEIGHTS] = address(model);
    arguments[RWKV_PROGRAM] = address(rwkv_program);
    arguments[RWKV_SHARED] = address(shared);
    arguments[RWKV_PRIVATE] = address(private);
    arguments[RWKV_BARRIER] = address(barrier);
    arguments[RWKV_OUT] = address(logits);
    arguments[RWKV_END] = RWKV_WORK; /* all rows: */
    arguments[RWKV_THREADS] = 1;
    rwkv_forget();
    return NULL;
}

void rwkv_forget(void) {
    for (int i = 0; i < RWKV_STATE_FLOATS; i++)
        states[newest][i] = i % RWKV_LAYER_FLOATS < RWKV_EXPONENTS ? 0.0f : -1e30f;
}

const float *rwkv_read(const int32_t *ids, int count) {
    while (count > 0) {
        int n = count < RWKV_MAX_TOKENS ? count : RWKV_MAX_TOKENS;
        int is_last = n == count;
        arguments[RWKV_FIRST] = 0;
        arguments[RWKV_LAST] = is_last ? RWKV_OPERATIONS : RWKV_SELECT;
        arguments[RWKV_HEAD] = is_last ? RWKV_HEAD_OF_LAST : RWKV_NO_HEAD;
        arguments[RWKV_TOKENS] = n;
        arguments[RWKV_IDS] = address(ids);
        arguments[RWKV_OLD] = address(states[newest]);
        arguments[RWKV_NEW] = address(states[!newest]);
        tinyrwkv_run(arguments);
        newest = !newest;
        ids += n, count -= n;
    }
    return logits;
}

/* The tokenizer: entries in the order of their bytes, searched where they lie in the file. */

static const uint8_t *entry(int k, int *n) {
    const uint8_t *starts = file + RWKV_TOKENIZER_STARTS + 4 * k;
    *n = (int)(number(starts + 4) - number(starts));
    return file + RWKV_TOKENIZER_BYTES + number(starts);
}

const uint8_t *rwkv_bytes(int token, int *n) {
    *n = 0;
    return rwkv_entry_of[token] < RWKV_ENTRIES ? entry(rwkv_entry_of[token], n) : file;
}

/* Return how many bytes an entry and a text begin with alike. */
static int alike(const uint8_t *bytes, int length, const uint8_t *text, int n) {
    int i = 0;
    while (i < length && i < n && bytes[i] == text[i]) i++;
    return i;
}

/* Return the last entry that sorts before a text or is equal to it. */
static int last_before(const uint8_t *text, int n) {
    int low = 0, high = RWKV_ENTRIES;
    while (high - low > 1) {
        int middle = low + (high - low) / 2, length;
        const uint8_t *bytes = entry(middle, &length);
        int same = alike(bytes, length, text, n);
        if (same == length || (same < n && bytes[same] < text[same]))
            low = middle;
        else
            high = middle;
    }
    return low;
}

int rwkv_encode(const char *text, int n, int32_t *ids, int most) {
    const uint8_t *ahead = (const uint8_t *)text;
    int count = 0;
    while (n > 0) {
        int reach = n < RWKV_LONGEST_ENTRY ? n : RWKV_LONGEST_ENTRY, k, length, same;
        /* If the entry found is no prefix of the text, the longest prefix has at most the bytes
           that both share: look for these alone. A single byte is always an entry. */
        for (;; reach = same) {
            k = last_before(ahead, reach);
            const uint8_t *bytes = entry(k, &length);
            same = alike(bytes, length, ahead, reach);
            if (same == length) break;
        }
        if (count == most) return -1;
        ids[count++] = (int32_t)number(file + RWKV_TOKENIZER_IDS + 4 * k);
        ahead += length, n -= length;
    }
    return count;
}

int rwkv_follow(int state, int token) {
    int n;
    const uint8_t *bytes = rwkv_bytes(token, &n);
    for (int i = 0; i < n && state; i++)
        state = rwkv_next_state[state * RWKV_CLASSES + rwkv_class_of[bytes[i]]];
    return n ? state : 0;
}

int rwkv_choose(const float *row, int state) {
    int best = -1;
    for (int token = 0; token < RWKV_VOCABULARY; token++) {
        if (best >= 0 && !(row[token] > row[best])) continue;
        if (!state || (token ? rwkv_follow(state, token) : rwkv_may_end[state])) best = token;
    }
    return best < 0 ? 0 : best;
}
