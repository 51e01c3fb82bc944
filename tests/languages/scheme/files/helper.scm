(define-module (helper) #:export (from))
(define (from) "from helper")
