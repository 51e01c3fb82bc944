extern puts
extern from

section .text
global main
main:
    sub rsp, 8
    call from
    mov rdi, rax
    call puts wrt ..plt
    xor eax, eax
    add rsp, 8
    ret

section .note.GNU-stack noalloc noexec nowrite progbits
