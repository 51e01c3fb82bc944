(defun from () "from helper")
