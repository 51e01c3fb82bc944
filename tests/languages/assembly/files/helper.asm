section .rodata
words: db "from helper", 0

section .text
global from
from:
    lea rax, [rel words]
    ret

section .note.GNU-stack noalloc noexec nowrite progbits
