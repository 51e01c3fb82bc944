void main() {
  final broken = ;
  print('unreached');
}
