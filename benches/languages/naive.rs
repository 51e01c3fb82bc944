//! What an ordinary person types for a program of one file, and waits for: the languages for which an image and its
//! profile have prepared something that this person has not.

/// The commands, on the same image.
pub struct Naive {
    pub language: &'static str,
    /// What the row is called.
    pub name: &'static str,
    /// What is typed, in short.
    pub typed: &'static str,
    /// Where the row has a program of its own in place of the corpus's hello.
    pub program: Option<&'static str>,
    /// The image, where it is not the profile's own.
    pub rootfs: Option<&'static str>,
    /// The name of the program's file.
    pub source: &'static str,
    pub steps: &'static [&'static [&'static str]],
    pub environment: &'static [&'static str],
}

const KOTLIN_JARS: &str = "/usr/lib/kotlin/kotlin-compiler.jar:/usr/lib/kotlin/kotlin-stdlib.jar:\
    /usr/lib/kotlin/kotlin-script-runtime.jar:/usr/lib/kotlin/kotlin-reflect.jar:/usr/lib/kotlin/kotlin-daemon.jar:\
    /usr/lib/kotlin/annotations-13.0.jar:/usr/lib/kotlin/kotlinx-coroutines-core-jvm.jar";
const SCALA_JARS: &str = "/usr/lib/scala/scala3-compiler.jar:/usr/lib/scala/scala3-interfaces.jar:/usr/lib/scala/tasty-core.jar:\
    /usr/lib/scala/scala-asm.jar:/usr/lib/scala/compiler-interface.jar:/usr/lib/scala/util-interface.jar:\
    /usr/lib/scala/scala3-library.jar:/usr/lib/scala/scala-library.jar";
const SCALA_LIBRARY: &str = "/usr/lib/scala/scala3-library.jar:/usr/lib/scala/scala-library.jar";
const SCALA_CLASSES: &str = "/usr/lib/scala/scala3-library.jar:/usr/lib/scala/scala-library.jar:.";

const PLAIN: Naive =
    Naive { language: "", name: "", typed: "", program: None, rootfs: None, source: "", steps: &[], environment: &[] };

/// Each must come below 0.6 of these.
pub const NAIVE: &[Naive] = &[
    Naive {
        language: "cpp",
        name: "cpp, bits/stdc++.h",
        typed: "g++ -std=c++20 hello.cpp; ./a.out",
        program: Some(include_str!("bits.cpp")),
        source: "hello.cpp",
        steps: &[&["g++", "-std=c++20", "hello.cpp"], &["./a.out"]],
        ..PLAIN
    },
    Naive {
        language: "java",
        name: "java, as typed",
        typed: "javac hello.java; java hello",
        source: "hello.java",
        steps: &[&["javac", "hello.java"], &["java", "hello"]],
        ..PLAIN
    },
    Naive {
        language: "kotlin",
        name: "kotlin, as typed",
        typed: "kotlinc hello.kt; kotlin HelloKt",
        source: "hello.kt",
        // What the scripts `kotlinc` and `kotlin` execute.
        steps: &[
            &[
                "java",
                "-Xmx256M",
                "-Xms32M",
                "-cp",
                KOTLIN_JARS,
                "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler",
                "-no-stdlib",
                "-no-reflect",
                "-cp",
                "/usr/lib/kotlin/kotlin-stdlib.jar",
                "hello.kt",
            ],
            &["java", "-cp", "/usr/lib/kotlin/kotlin-stdlib.jar:.", "HelloKt"],
        ],
        ..PLAIN
    },
    Naive {
        language: "scala",
        name: "scala, as typed",
        typed: "scalac hello.scala; scala Hello",
        source: "hello.scala",
        // What the scripts `scalac` and `scala` execute.
        steps: &[
            &["java", "-cp", SCALA_JARS, "dotty.tools.dotc.Main", "-classpath", SCALA_LIBRARY, "hello.scala"],
            &["java", "-cp", SCALA_CLASSES, "Hello"],
        ],
        ..PLAIN
    },
    Naive {
        language: "go",
        name: "go, as typed",
        typed: "go build hello.go, nothing built before; ./hello",
        source: "hello.go",
        steps: &[&["go", "build", "hello.go"], &["./hello"]],
        // A cache of one's own, and it is the first program.
        environment: &["GOCACHE=/tmp/cache", "GOTOOLCHAIN=local", "GOPATH=/tmp/go", "CGO_ENABLED=0"],
        ..PLAIN
    },
    Naive {
        language: "typescript",
        name: "typescript, as typed",
        typed: "tsc hello.ts; node hello.js",
        rootfs: Some("typescript"),
        source: "hello.ts",
        steps: &[&["tsc", "hello.ts"], &["node", "hello.js"]],
        ..PLAIN
    },
];
