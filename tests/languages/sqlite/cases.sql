-- SQL has no branches: each case is a script of its own, and the one asked for is read.
.output /dev/null
SELECT writefile('/tmp/case.sql', CASE ?1
    WHEN 'echo' THEN 'CREATE TABLE input(line TEXT);' || char(10) || '.separator "\x1f" "\n"' || char(10) || '.import /dev/stdin input' || char(10) || 'SELECT line FROM input;'
    WHEN 'args' THEN 'SELECT ''['' || value || '']'' FROM temp.sqlite_parameters WHERE key > ''?1'' ORDER BY key;'
    WHEN 'exit' THEN '.exit 3'
    WHEN 'stderr' THEN 'SELECT ''to stdout'';' || char(10) || '.output /dev/stderr' || char(10) || 'SELECT ''to stderr'';'
    WHEN 'unicode' THEN 'SELECT ''žluťoučký 你好 🦀'';'
    WHEN 'output' THEN 'SELECT printf(''%.*c'', 99, ''x'') FROM generate_series(1, 10000);'
    WHEN 'uncaught' THEN 'SELECT * FROM "corpus failure";'
    WHEN 'memory' THEN 'CREATE TABLE hoard AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT randomblob(1048576) FROM n;'
    WHEN 'loop' THEN 'WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n;'
    WHEN 'threads' THEN 'SELECT 4 * sum(value) FROM generate_series(1, 1000);'
    WHEN 'missing' THEN 'SELECT coalesce(readfile(''absent.txt''), ''missing'');'
    WHEN 'workdir' THEN 'SELECT CAST(readfile(''out.txt'') AS TEXT) WHERE writefile(''out.txt'', ''written'') = 7;'
END);
.output
.read /tmp/case.sql
