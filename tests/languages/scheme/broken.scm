(display "unreached"
(broken
