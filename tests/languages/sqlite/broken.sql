SELECT broken FRM;
SELECT 'unreached';
