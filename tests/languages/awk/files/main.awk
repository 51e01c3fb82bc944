@include "helper.awk"

BEGIN { print from() }
