greeting <- function() "from helper"
