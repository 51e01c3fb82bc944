section .text
global _start
_start:
    broken eax, 1
