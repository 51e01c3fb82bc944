program broken_program
  implicit none
  print *, broken
end program broken_program
