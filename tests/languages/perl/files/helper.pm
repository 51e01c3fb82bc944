package helper;

sub greeting { "from helper" }

1;
