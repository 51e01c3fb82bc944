CREATE TABLE helper(words TEXT);
INSERT INTO helper VALUES ('from helper');
