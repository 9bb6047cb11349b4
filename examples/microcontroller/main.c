/* Answer each line that comes in, as `tinyrwkv chat` answers an order: greedily, and apart from
   what was said before. The line "/script" turns the grammar of scripts on and off; byte 4
   (Ctrl-D) ends. */
#include "board.h"
#include "rwkv.h"

#include "rwkv_model.h"

#define MOST_BYTES 1024 /* of a line */
enum { END_OF_INPUT = 4, STOP_BYTES = sizeof RWKV_STOP - 1, HELD = STOP_BYTES + 64 };

static char text[sizeof RWKV_BEFORE + MOST_BYTES + sizeof RWKV_AFTER];
static int32_t ids[1 + sizeof text + RWKV_MAX_ANSWER]; /* the prompt, then the answer */

static void put(const char *line) {
    while (*line) board_put(*line++);
}

static int is_blank(int byte) {
    return byte == ' ' || (byte >= 9 && byte <= 13) || (byte >= 28 && byte <= 31);
}

/* What is measured: all logits, the depth of the stack, the clock, and the tokens. */
#ifndef TRACE
#define TRACE 0
#endif
#define UNUSED 0x5AFE57AC /* a word of the stack that nobody has written */

static uint32_t crc, ticks_of_prompt, ticks_of_token;

static void put_hex(const char *name, uint32_t value) {
    put(name);
    for (int shift = 28; shift >= 0; shift -= 4) board_put("0123456789abcdef"[value >> shift & 15]);
}

static void paint_stack(void) {
    uint32_t here, *word = board_stack_low;
    while (word < &here - 16) *word++ = UNUSED;
}

static void put_trace(int count) {
    uint32_t *word = board_stack_low;
    while (*word == UNUSED) word++;
    put_hex("# logits ", crc);
    put_hex(" stack ", (uint32_t)((char *)board_stack_high - (char *)word));
    put_hex(" prompt ", ticks_of_prompt);
    put_hex(" token ", ticks_of_token);
    put(" ids");
    for (int i = 0; i < count; i++) put_hex(" ", (uint32_t)ids[i]);
    put("\n");
}

static const float *read(const int32_t *tokens, int n, uint32_t *ticks) {
    uint32_t before = TRACE ? board_clock() : 0;
    const float *logits = rwkv_read(tokens, n);
    if (TRACE) *ticks = board_clock() - before;
    return logits;
}

/* The answer, without blanks at its ends. Its last bytes wait: they may be the stop string. */
static char held[HELD];
static int held_bytes, is_begun;

static void send(int n) {
    for (int i = 0; i < n; i++)
        if (is_begun || !is_blank(held[i])) board_put(held[i]), is_begun = 1;
    for (int i = n; i < held_bytes; i++) held[i - n] = held[i];
    held_bytes -= n;
}

/* Tell whether the answer ends with the first n bytes of the stop string. */
static int ends_with_stop(int n) {
    return n <= held_bytes && !rwkv_differ(held + held_bytes - n, RWKV_STOP, (size_t)n);
}

/* Take a byte of the answer; return 1 if the stop string is complete. */
static int take(char byte) {
    int n = STOP_BYTES, sent;
    if (held_bytes == HELD) send(1);
    held[held_bytes++] = byte;
    while (n > 0 && !ends_with_stop(n)) n--;
    sent = held_bytes - n;
    while (sent > 0 && is_blank(held[sent - 1])) sent--;
    send(sent);
    if (n == 0 || n < STOP_BYTES) return 0;
    held_bytes = 0;
    return 1;
}

static void answer(int n, int state) {
    int count = 0, is_stop = 0;
    rwkv_forget();
    const float *logits = read(ids, n, &ticks_of_prompt);
    held_bytes = is_begun = 0;
    while (!is_stop && count < RWKV_MAX_ANSWER) {
        int size, token = rwkv_choose(logits, state);
        const uint8_t *bytes = rwkv_bytes(token, &size);
        if (TRACE) crc = rwkv_crc32(crc, logits, 4 * RWKV_VOCABULARY);
        ids[count] = token;
        is_stop = token == 0;
        for (int i = 0; i < size && !is_stop; i++) is_stop = take((char)bytes[i]);
        if (state) state = rwkv_follow(state, token);
        if (!is_stop) logits = read(ids + count, 1, &ticks_of_token);
        count++;
    }
    while (held_bytes > 0 && is_blank(held[held_bytes - 1])) held_bytes--;
    send(held_bytes);
    put("\n");
    if (TRACE) put_trace(count);
}

/* Read a line to `line`; return its bytes, MOST_BYTES + 1 if there are more, or -1 at the end. */
static int read_line(char *line) {
    static int before;
    int n = 0;
    for (;;) {
        int byte = board_get(), is_rest = byte == '\n' && before == '\r';
        before = byte;
        if (byte == END_OF_INPUT) return -1;
        if (is_rest) continue;
        if (byte == '\n' || byte == '\r') break;
        if (n == 0 && is_blank(byte)) continue;
        if (n < MOST_BYTES) line[n] = (char)byte;
        if (n <= MOST_BYTES) n++;
    }
    while (n > 0 && n <= MOST_BYTES && is_blank(line[n - 1])) n--;
    return n;
}

int main(void) {
    char *line = text + sizeof RWKV_BEFORE - 1;
    int with_grammar = 0, n;
    if (TRACE) paint_stack();
    const char *wrong = rwkv_begin(board_model);
    if (wrong) {
        put("error: "), put(wrong), put("\n");
        return 1;
    }
    put("ready\n");
    for (int i = 0; RWKV_BEFORE[i]; i++) text[i] = RWKV_BEFORE[i];
    while ((n = read_line(line)) >= 0) {
        if (n == 0) {
            put("error: the line is empty; say something\n");
        } else if (n > MOST_BYTES) {
            put("error: the line has more than 1,024 bytes; say less\n");
        } else if (n == 7 && !rwkv_differ(line, "/script", 7)) {
            with_grammar = !with_grammar;
            put(with_grammar ? "scripts only\n" : "any text\n");
        } else {
            char *end = line + n;
            for (int i = 0; RWKV_AFTER[i]; i++) *end++ = RWKV_AFTER[i];
            ids[0] = 0;
            n = rwkv_encode(text, (int)(end - text), ids + 1, (int)sizeof text);
            answer(1 + n, with_grammar);
        }
    }
    return 0;
}
