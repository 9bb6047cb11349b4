/* QEMU's virt with a riscv32 processor: the model lies in the second flash. */
#include "board.h"

#define UART ((volatile uint8_t *)0x10000000) /* 16550: data at 0, line status at 5 */
#define TEST (*(volatile uint32_t *)0x100000) /* ends QEMU */

extern uint32_t bss_low[], bss_high[];

__asm__(".section .vectors, \"ax\"\n"
        ".global _start\n"
        "_start:\n"
        "    la sp, board_stack_high\n"
        "    la t0, fault\n"
        "    csrw mtvec, t0\n"
        "    li t0, 0x2000\n" /* the FPU */
        "    csrs mstatus, t0\n"
        "    j start\n"
        ".text\n");

__attribute__((used)) static void start(void) {
    for (uint32_t *word = bss_low; word < bss_high; word++) *word = 0;
    board_stop(main());
}

__attribute__((used, aligned(4))) static void fault(void) {
    for (const char *text = "error: a fault of the processor\n"; *text; text++) board_put(*text);
    board_stop(2);
}

int board_get(void) {
    while (!(UART[5] & 1)) {
    }
    return UART[0];
}

void board_put(int byte) {
    while (!(UART[5] & 32)) {
    }
    UART[0] = (uint8_t)byte;
}

uint32_t board_clock(void) {
    uint32_t count;
    __asm__ volatile("csrr %0, minstret" : "=r"(count));
    return count;
}

void board_stop(int status) {
    TEST = status ? (uint32_t)status << 16 | 0x3333 : 0x5555;
    for (;;) {
    }
}
