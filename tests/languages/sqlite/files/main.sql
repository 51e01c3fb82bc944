.read helper.sql
SELECT words FROM helper;
