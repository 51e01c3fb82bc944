#include <stdio.h>
#include "helper.h"

int main(void) { puts(greeting()); }
