/* QEMU's mps2-an500: a Cortex-M7 with 4 MB for code, 4 MB of RAM, and the model in PSRAM. */
#include "board.h"

#define UART ((volatile uint32_t *)0x40004000) /* CMSDK: data, state, control, -, divisor */
#define TIMER ((volatile uint32_t *)0x40000000) /* counts down every 40 ns: control, value */
#define COPROCESSORS (*(volatile uint32_t *)0xE000ED88)

extern uint32_t bss_low[], bss_high[];

static void start(void) {
    COPROCESSORS |= 0xF << 20; /* the FPU */
    __asm__ volatile("dsb\n isb");
    for (uint32_t *word = bss_low; word < bss_high; word++) *word = 0;
    UART[4] = 16;
    UART[2] = 3; /* send and receive */
    TIMER[1] = 0xFFFFFFFF;
    TIMER[0] = 1;
    board_stop(main());
}

static void fault(void) {
    for (const char *text = "error: a fault of the processor\n"; *text; text++) board_put(*text);
    board_stop(2);
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    board_stack_high, start, fault, fault, fault, fault, fault,
};

int board_get(void) {
    while (!(UART[1] & 2)) {
    }
    return (int)UART[0] & 255;
}

void board_put(int byte) {
    while (UART[1] & 1) {
    }
    UART[0] = (uint32_t)byte & 255;
}

uint32_t board_clock(void) { return ~TIMER[1]; }

void board_stop(int status) {
    static uint32_t block[2];
    block[0] = 0x20026; /* ADP_Stopped_ApplicationExit */
    block[1] = (uint32_t)status;
    register uint32_t operation __asm__("r0") = 0x20; /* SYS_EXIT_EXTENDED of semihosting */
    register uint32_t *at __asm__("r1") = block;
    __asm__ volatile("bkpt 0xAB" : : "r"(operation), "r"(at) : "memory");
    for (;;) {
    }
}
