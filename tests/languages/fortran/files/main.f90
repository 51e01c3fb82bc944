include 'helper.f90'

program main
  use helper
  print '(a)', greeting()
end program main
