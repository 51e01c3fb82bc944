use strict;
use warnings;

my ($case, @rest) = @ARGV;
my %cases = (
    echo => sub { print while <STDIN> },
    args => sub { print "[$_]\n" for @rest },
    exit => sub { exit 3 },
    stderr => sub { print "to stdout\n"; print STDERR "to stderr\n" },
    unicode => sub { print "žluťoučký 你好 🦀\n" },
    output => sub { print "x" x 99, "\n" for 1 .. 10_000 },
    uncaught => sub { die "corpus failure" },
    memory => sub { my @hoard; push @hoard, "x" x (1 << 20) while 1 },
    loop => sub { 1 while 1 },
    threads => sub {
        require threads;
        my @threads = map { threads->create(sub { my $sum = 0; $sum += $_ for 1 .. 1000; $sum }) } 1 .. 4;
        my $total = 0;
        $total += $_->join for @threads;
        print "$total\n";
    },
    missing => sub { print open(my $file, "<", "absent.txt") ? "there\n" : "missing\n" },
    workdir => sub {
        open(my $out, ">", "out.txt") or die $!;
        print $out "written\n";
        close $out;
        open(my $in, "<", "out.txt") or die $!;
        print <$in>;
    },
);
$cases{$case}->();
