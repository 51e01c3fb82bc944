print "unreached" if (;
