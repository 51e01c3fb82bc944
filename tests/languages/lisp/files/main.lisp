(load "helper.lisp")
(format t "~a~%" (from))
