(format t "~a~%" broken)
(format t "unreached~%"
