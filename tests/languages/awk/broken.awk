BEGIN { print "unreached" broken( }
