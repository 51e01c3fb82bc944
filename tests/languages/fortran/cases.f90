program cases
  use, intrinsic :: iso_fortran_env, only: error_unit, iostat_end, int8
  implicit none
  character(len=256) :: name, word, line
  integer :: index, status, total
  type block
    integer(int8), allocatable :: bytes(:)
  end type block
  type(block) :: hoard(100000)

  call get_command_argument(1, name)
  select case (name)
  case ('echo')
    do
      read (*, '(a)', iostat=status) line
      if (status == iostat_end) exit
      print '(a)', trim(line)
    end do
  case ('args')
    do index = 2, command_argument_count()
      call get_command_argument(index, word)
      print '(3a)', '[', trim(word), ']'
    end do
  case ('exit')
    call exit(3)
  case ('stderr')
    print '(a)', 'to stdout'
    write (error_unit, '(a)') 'to stderr'
  case ('unicode')
    print '(a)', 'žluťoučký 你好 🦀'
  case ('output')
    do index = 1, 10000
      print '(a)', repeat('x', 99)
    end do
  case ('uncaught')
    error stop 'corpus failure'
  case ('memory')
    do index = 1, 100000
      allocate (hoard(index)%bytes(1048576))
      hoard(index)%bytes = int(mod(index, 100), int8)
    end do
  case ('loop')
    total = 0
    do while (total >= 0)
      total = mod(total + 1, 1000)
    end do
    print *, total
  case ('threads')
    total = 0
    !$omp parallel do num_threads(4) reduction(+:total)
    do index = 0, 3999
      total = total + mod(index, 1000) + 1
    end do
    !$omp end parallel do
    print '(i0)', total
  case ('missing')
    open (10, file='absent.txt', status='old', iostat=status)
    if (status /= 0) print '(a)', 'missing'
  case ('workdir')
    open (10, file='out.txt', status='new')
    write (10, '(a)') 'written'
    rewind (10)
    read (10, '(a)') line
    print '(a)', trim(line)
  end select
end program cases
