(println broken)
(println "unreached"
