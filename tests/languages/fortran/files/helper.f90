module helper
contains
  function greeting() result(text)
    character(len=11) :: text
    text = 'from helper'
  end function greeting
end module helper
