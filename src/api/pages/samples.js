// One short program a language, each of which shows more than a greeting where the language makes it short.

const SAMPLES = {
  bash: {
    code: `# The words of the input, most frequent first.
tr -cs '[:alpha:]' '\\n' | tr '[:upper:]' '[:lower:]' | sort | uniq -c | sort -rn | head -n 5
`,
    stdin: "the quick brown fox jumps over the lazy dog; the dog sleeps\n",
  },
  c: {
    code: `#include <stdio.h>

int main(void) {
    unsigned long a = 0, b = 1;
    for (int n = 0; n < 20; n++) {
        printf("%2d  %lu\\n", n, a);
        unsigned long next = a + b;
        a = b;
        b = next;
    }
}
`,
  },
  cpp: {
    code: `#include <algorithm>
#include <iostream>
#include <string>
#include <vector>

int main() {
    std::vector<std::string> words;
    for (std::string word; std::cin >> word;) words.push_back(word);
    std::ranges::sort(words);
    for (const auto& word : words) std::cout << word << '\\n';
}
`,
    stdin: "pear apple quince cherry\n",
  },
  javascript: {
    code: `// The primes below 100, by the sieve of Eratosthenes.
const composite = new Set();
const primes = [];
for (let n = 2; n < 100; n++) {
  if (composite.has(n)) continue;
  primes.push(n);
  for (let multiple = n * n; multiple < 100; multiple += n) composite.add(multiple);
}
console.log(primes.join(" "));
`,
  },
  python: {
    code: `import sys

name = sys.stdin.readline().strip() or "world"
print(f"Hello, {name}! Python {sys.version.split()[0]} here.")

for n in range(1, 6):
    print(f"{n} squared is {n * n}")

print("This line goes to stderr.", file=sys.stderr)
`,
    stdin: "Ada\n",
  },
  typescript: {
    code: `interface Planet {
  name: string;
  moons: number;
}

const planets: Planet[] = [
  { name: "Earth", moons: 1 },
  { name: "Mars", moons: 2 },
  { name: "Neptune", moons: 16 },
];

for (const { name, moons } of planets.sort((a, b) => b.moons - a.moons)) {
  console.log(\`\${name.padEnd(8)} \${"o".repeat(moons)}\`);
}
`,
  },
  csharp: { code: `using System;\n\nclass Program {\n    static void Main() {\n        Console.WriteLine("Hello from C#.");\n    }\n}\n` },
  dart: { code: `void main() {\n  for (var n = 1; n <= 5; n++) print('$n squared is \${n * n}');\n}\n` },
  elixir: { code: `1..5 |> Enum.map(&(&1 * &1)) |> Enum.join(" ") |> IO.puts()\n` },
  go: { code: `package main\n\nimport "fmt"\n\nfunc main() {\n\tfor n := 1; n <= 5; n++ {\n\t\tfmt.Println(n, "squared is", n*n)\n\t}\n}\n` },
  haskell: { code: `main :: IO ()\nmain = mapM_ print (takeWhile (< 100) fibs)\n  where fibs = 0 : 1 : zipWith (+) fibs (tail fibs) :: [Integer]\n` },
  java: { code: `public class Main {\n    public static void main(String[] args) {\n        for (int n = 1; n <= 5; n++) System.out.println(n + " squared is " + n * n);\n    }\n}\n` },
  kotlin: { code: `fun main() {\n    for (n in 1..5) println("$n squared is \${n * n}")\n}\n` },
  lua: { code: `for n = 1, 5 do\n  print(n .. " squared is " .. n * n)\nend\n` },
  ocaml: { code: `let () = List.iter (fun n -> Printf.printf "%d squared is %d\\n" n (n * n)) [1; 2; 3; 4; 5]\n` },
  perl: { code: `use strict;\nuse warnings;\n\nprint "$_ squared is ", $_ * $_, "\\n" for 1 .. 5;\n` },
  php: { code: `<?php\nforeach (range(1, 5) as $n) {\n    echo "$n squared is ", $n * $n, "\\n";\n}\n` },
  r: { code: `n <- 1:5\ncat(paste(n, "squared is", n^2), sep = "\\n")\n` },
  ruby: { code: `(1..5).each { |n| puts "#{n} squared is #{n * n}" }\n` },
  rust: { code: `fn main() {\n    for n in 1..=5 {\n        println!("{n} squared is {}", n * n);\n    }\n}\n` },
  scala: { code: `object Main extends App {\n  for (n <- 1 to 5) println(s"$n squared is \${n * n}")\n}\n` },
  swift: { code: `for n in 1...5 {\n    print("\\(n) squared is \\(n * n)")\n}\n` },
  assembly: {
    code: `section .data
format: db "%ld squared is %ld", 10, 0

section .text
global main
extern printf
default rel
main:
    push rbx
    mov rbx, 1
next:
    lea rdi, [format]
    mov rsi, rbx
    mov rdx, rbx
    imul rdx, rdx
    xor eax, eax
    call printf wrt ..plt
    inc rbx
    cmp rbx, 5
    jle next
    xor eax, eax
    pop rbx
    ret

section .note.GNU-stack noalloc noexec nowrite progbits
`,
  },
  awk: { code: `{ for (i = 1; i <= NF; i++) count[$i]++ }\nEND { for (word in count) print count[word], word }\n`, stdin: "to be or not to be\n" },
  bun: { code: `const squares: number[] = [1, 2, 3, 4, 5].map((n: number) => n * n);\nconsole.log("Bun", Bun.version, squares.join(" "));\n` },
  clojure: { code: `(doseq [n (range 1 6)]\n  (println n "squared is" (* n n)))\n` },
  d: { code: `import std.algorithm, std.range, std.stdio;\n\nvoid main() {\n    iota(1, 6).map!(n => n * n).each!writeln;\n}\n` },
  deno: { code: `const squares: number[] = [1, 2, 3, 4, 5].map((n: number) => n * n);\nconsole.log("Deno", Deno.version.deno, squares.join(" "));\n` },
  erlang: { code: `%% The squares of the numbers up to five.\nmain(_) ->\n    [io:format("~p squared is ~p~n", [N, N * N]) || N <- lists:seq(1, 5)].\n` },
  fortran: { code: `program squares\n  implicit none\n  integer :: n\n  do n = 1, 5\n    print '(i0, a, i0)', n, ' squared is ', n * n\n  end do\nend program\n` },
  lisp: { code: `(loop for n from 1 to 5\n      do (format t "~d squared is ~d~%" n (* n n)))\n` },
  pascal: { code: `program Squares;\nvar\n  n: integer;\nbegin\n  for n := 1 to 5 do\n    writeln(n, ' squared is ', n * n);\nend.\n` },
  prolog: { code: `:- initialization(main).\n\nmain :- forall(between(1, 5, N), (S is N * N, format("~d squared is ~d~n", [N, S]))).\n` },
  scheme: { code: `(do ((n 1 (+ n 1))) ((> n 5))\n  (display n) (display " squared is ") (display (* n n)) (newline))\n` },
  sqlite: { code: `WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 5)\nSELECT n || ' squared is ' || (n * n) FROM numbers;\n` },
  dotnet: { code: `using System;\nusing System.Linq;\n\nclass Program {\n    static string Kind(int n) => (n % 3, n % 5) switch {\n        (0, 0) => "FizzBuzz",\n        (0, _) => "Fizz",\n        (_, 0) => "Buzz",\n        _ => n.ToString(),\n    };\n\n    static void Main() => Console.WriteLine(string.Join(" ", Enumerable.Range(1, 15).Select(Kind)));\n}\n` },
};

/** The sample of a language, `{code, stdin}`; empty for one that is not here. */
export function sample(id) {
  return { code: "", stdin: "", ...(Object.hasOwn(SAMPLES, id) ? SAMPLES[id] : {}) };
}
