import 'dart:convert';
import 'dart:io';
import 'dart:isolate';
import 'dart:typed_data';

int sum() {
  var total = 0;
  for (var n = 1; n <= 1000; n++) total += n;
  return total;
}

Future<void> main(List<String> arguments) async {
  switch (arguments.first) {
    case 'echo':
      await stdin.transform(utf8.decoder).transform(const LineSplitter()).forEach(print);
    case 'args':
      arguments.skip(1).forEach((argument) => print('[$argument]'));
    case 'exit':
      exit(3);
    case 'stderr':
      print('to stdout');
      stderr.writeln('to stderr');
    case 'unicode':
      print('žluťoučký 你好 🦀');
    case 'output':
      for (var n = 0; n < 10000; n++) stdout.writeln('x' * 99);
    case 'uncaught':
      throw StateError('corpus failure');
    case 'memory':
      final hoard = <Uint8List>[];
      while (true) hoard.add(Uint8List(1 << 20)..fillRange(0, 1 << 20, 1));
    case 'loop':
      while (true) {}
    case 'threads':
      final sums = await Future.wait([for (var n = 0; n < 4; n++) Isolate.run(sum)]);
      print(sums.reduce((a, b) => a + b));
    case 'missing':
      try {
        File('absent.txt').readAsStringSync();
      } on PathNotFoundException {
        print('missing');
      }
    case 'workdir':
      File('out.txt').writeAsStringSync('written');
      print(File('out.txt').readAsStringSync());
  }
}
