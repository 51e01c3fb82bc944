import 'helper.dart';

void main() => print(greeting());
