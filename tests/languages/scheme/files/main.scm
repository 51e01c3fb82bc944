(use-modules (helper))
(display (from))
(newline)
