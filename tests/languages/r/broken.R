broken <- function( { "unreached" }
