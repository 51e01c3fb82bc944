<?php
[, $case] = $argv;
$rest = array_slice($argv, 2);
switch ($case) {
    case 'echo':
        echo stream_get_contents(STDIN);
        break;
    case 'args':
        foreach ($rest as $arg) {
            echo "[$arg]\n";
        }
        break;
    case 'exit':
        exit(3);
    case 'stderr':
        echo "to stdout\n";
        fwrite(STDERR, "to stderr\n");
        break;
    case 'unicode':
        echo "žluťoučký 你好 🦀\n";
        break;
    case 'output':
        for ($n = 0; $n < 10000; $n++) {
            echo str_repeat('x', 99), "\n";
        }
        break;
    case 'uncaught':
        throw new RuntimeException('corpus failure');
    case 'memory':
        $hoard = [];
        while (true) {
            $hoard[] = str_repeat('x', 1 << 20);
        }
    case 'loop':
        while (true);
    case 'threads':
        // PHP has processes only.
        for ($index = 0; $index < 4; $index++) {
            if (pcntl_fork() === 0) {
                file_put_contents("sum$index", array_sum(range(1, 1000)));
                exit(0);
            }
        }
        while (pcntl_wait($status) > 0);
        echo array_sum(array_map(fn($index) => (int) file_get_contents("sum$index"), range(0, 3))), "\n";
        break;
    case 'missing':
        echo @file_get_contents('absent.txt') === false ? "missing\n" : "there\n";
        break;
    case 'workdir':
        file_put_contents('out.txt', 'written');
        echo file_get_contents('out.txt'), "\n";
        break;
}
