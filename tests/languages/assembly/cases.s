# With the C library, in the GNU assembler's words. Each case is a function without arguments that returns the exit code.
.intel_syntax noprefix

.macro case name
    .section .rodata
    name_\name: .asciz "\name"
    .section .data.cases, "aw"
    .quad name_\name, case_\name
    .text
    case_\name:
        sub rsp, 8
.endm

.macro done code=0
        mov eax, \code
        add rsp, 8
        ret
.endm

    .section .rodata
stdout_text: .asciz "to stdout"
stderr_text: .asciz "to stderr\n"
unicode_text: .asciz "žluťoučký 你好 🦀"
failure_text: .asciz "corpus failure\n"
missing_text: .asciz "missing"
written_text: .asciz "written"
absent: .asciz "absent.txt"
out_file: .asciz "out.txt"
mode_read: .asciz "r"
mode_write: .asciz "w"
bracketed: .asciz "[%s]\n"
number: .asciz "%ld\n"
exes: .fill 99, 1, 'x'
    .byte 0

    .section .bss
    .lcomm words, 8
    .lcomm buffer, 4096
    .lcomm threads, 32
    .lcomm sums, 32

    .section .data.cases, "aw"
cases:
    .text

case echo
1:  xor edi, edi
    lea rsi, buffer[rip]
    mov edx, 4096
    call read@plt
    test rax, rax
    jle 2f
    mov edi, 1
    lea rsi, buffer[rip]
    mov rdx, rax
    call write@plt
    jmp 1b
2:  done

case args
    push rbx
    sub rsp, 8
    mov rbx, words[rip]
    add rbx, 16
1:  mov rsi, [rbx]
    test rsi, rsi
    je 2f
    lea rdi, bracketed[rip]
    xor eax, eax
    call printf@plt
    add rbx, 8
    jmp 1b
2:  add rsp, 8
    pop rbx
    done

case exit
    done 3

case stderr
    lea rdi, stdout_text[rip]
    call puts@plt
    lea rdi, stderr_text[rip]
    mov rsi, stderr@GOTPCREL[rip]
    mov rsi, [rsi]
    call fputs@plt
    done

case unicode
    lea rdi, unicode_text[rip]
    call puts@plt
    done

case output
    push rbx
    sub rsp, 8
    mov ebx, 10000
1:  lea rdi, exes[rip]
    call puts@plt
    dec ebx
    jnz 1b
    add rsp, 8
    pop rbx
    done

# There is nothing to catch: it says so and is ended by a signal.
case uncaught
    lea rdi, failure_text[rip]
    mov rsi, stderr@GOTPCREL[rip]
    mov rsi, [rsi]
    call fputs@plt
    ud2

case memory
1:  mov edi, 1048576
    call malloc@plt
    mov rdi, rax
    mov esi, 1
    mov edx, 1048576
    call memset@plt
    jmp 1b

case loop
1:  jmp 1b

case threads
    push rbx
    sub rsp, 8
    xor ebx, ebx
1:  lea rdi, threads[rip]
    lea rdi, [rdi + rbx * 8]
    xor esi, esi
    lea rdx, sum[rip]
    lea rcx, sums[rip]
    lea rcx, [rcx + rbx * 8]
    call pthread_create@plt
    inc ebx
    cmp ebx, 4
    jne 1b
    xor ebx, ebx
2:  lea rdi, threads[rip]
    mov rdi, [rdi + rbx * 8]
    xor esi, esi
    call pthread_join@plt
    inc ebx
    cmp ebx, 4
    jne 2b
    mov rsi, sums[rip]
    add rsi, sums[rip + 8]
    add rsi, sums[rip + 16]
    add rsi, sums[rip + 24]
    lea rdi, number[rip]
    xor eax, eax
    call printf@plt
    add rsp, 8
    pop rbx
    done

sum:
    mov ecx, 1000
1:  add [rdi], rcx
    dec rcx
    jnz 1b
    xor eax, eax
    ret

case missing
    lea rdi, absent[rip]
    lea rsi, mode_read[rip]
    call fopen@plt
    test rax, rax
    jne 1f
    lea rdi, missing_text[rip]
    call puts@plt
1:  done

case workdir
    push rbx
    sub rsp, 8
    lea rdi, out_file[rip]
    lea rsi, mode_write[rip]
    call fopen@plt
    mov rbx, rax
    lea rdi, written_text[rip]
    mov rsi, rbx
    call fputs@plt
    mov rdi, rbx
    call fclose@plt
    lea rdi, out_file[rip]
    lea rsi, mode_read[rip]
    call fopen@plt
    lea rdi, buffer[rip]
    mov esi, 4096
    mov rdx, rax
    call fgets@plt
    lea rdi, buffer[rip]
    call puts@plt
    add rsp, 8
    pop rbx
    done

    .section .data.cases, "aw"
    .quad 0
    .text

    .global main
main:
    push rbx
    mov words[rip], rsi
    lea rbx, cases[rip]
1:  mov rdi, [rbx]
    test rdi, rdi
    je 2f
    mov rsi, words[rip]
    mov rsi, [rsi + 8]
    call strcmp@plt
    test eax, eax
    je 3f
    add rbx, 16
    jmp 1b
2:  mov eax, 1
    pop rbx
    ret
3:  call [rbx + 8]
    pop rbx
    ret
