//! Reading the history back.

use rusqlite::types::ToSql;
use rusqlite::{Connection, OptionalExtension as _, Row, TransactionBehavior, params_from_iter};

use super::database::unsigned;
use super::record::{Counts, Details, ListQuery, Page, Record};

/// The columns [`record`] reads, in its order.
const COLUMNS: &str = "id, created_ms, finished_ms, caller, address, request_id, dialect, language, version, \
    source_sha256, source_bytes, files, status, exit_code, signal, message, wall_time_ms, cpu_time_ms, \
    memory_peak_bytes, queue_time_ms, stdout_truncated_bytes, stderr_truncated_bytes, denied_syscalls";

/// One run with its outputs, or `None` where there is none of this id.
pub(super) fn get(connection: &mut Connection, id: &str) -> rusqlite::Result<Option<Record>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
    let found = transaction
        .prepare_cached(&format!("SELECT {COLUMNS}, seq FROM runs WHERE id = ?1"))?
        .query_row([id], |row| Ok((record(row)?, row.get::<_, i64>("seq")?)))
        .optional()?;
    let Some((mut record, seq)) = found else { return Ok(None) };
    record.details = transaction
        .prepare_cached(
            "SELECT source, stdout, stderr, answer_json, result_json, logs_json FROM details WHERE seq = ?1",
        )?
        .query_row([seq], details)
        .optional()?;
    Ok(Some(record))
}

pub(super) fn list(connection: &mut Connection, query: &ListQuery) -> rusqlite::Result<Page> {
    let filters = [("caller = ?", query.caller), ("language = ?", query.language), ("status = ?", query.status)];
    let filters = filters.into_iter().filter_map(|(clause, value)| Some((clause, value?)));
    let (mut clauses, values): (Vec<&str>, Vec<&str>) = filters.unzip();
    let mut values: Vec<&dyn ToSql> = values.iter().map(|value| value as &dyn ToSql).collect();
    let where_all = where_clause(&clauses);
    // One transaction, so that the total is that of the moment the page is read in.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
    let total: i64 = transaction
        .prepare_cached(&format!("SELECT COUNT(*) FROM runs{where_all}"))?
        .query_row(params_from_iter(&values), |row| row.get(0))?;

    if let Some(id) = &query.before_id {
        clauses.push("seq < (SELECT seq FROM runs WHERE id = ?)");
        values.push(id);
    }
    let limit = query.limit.clamp(1, ListQuery::LIMIT_MAX);
    let offset = i64::try_from(query.offset).unwrap_or(i64::MAX);
    values.extend([&limit as &dyn ToSql, &offset]);
    let where_page = where_clause(&clauses);
    let sql = format!("SELECT {COLUMNS} FROM runs{where_page} ORDER BY seq DESC LIMIT ? OFFSET ?");
    let mut statement = transaction.prepare_cached(&sql)?;
    let records = statement.query_map(params_from_iter(&values), record)?.collect::<rusqlite::Result<_>>()?;
    Ok(Page { records, total: unsigned(total) })
}

pub(super) fn counts(connection: &mut Connection) -> rusqlite::Result<Counts> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
    let mut statement = transaction.prepare_cached("SELECT status, COUNT(*) FROM runs GROUP BY status")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, unsigned(row.get(1)?))))?;
    let by_status = rows.collect::<rusqlite::Result<std::collections::BTreeMap<String, u64>>>()?;
    let oldest = "SELECT MIN(created_ms) FROM runs";
    let oldest: Option<i64> = transaction.prepare_cached(oldest)?.query_row([], |row| row.get(0))?;
    Ok(Counts { total: by_status.values().sum(), by_status, oldest_ms: oldest.map(unsigned) })
}

fn where_clause(clauses: &[&str]) -> String {
    if clauses.is_empty() { String::new() } else { format!(" WHERE {}", clauses.join(" AND ")) }
}

fn record(row: &Row) -> rusqlite::Result<Record> {
    let text: String = row.get(22)?;
    let denied_syscalls = serde_json::from_str(&text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(22, rusqlite::types::Type::Text, error.into()))?;
    Ok(Record {
        id: row.get(0)?,
        created_ms: unsigned(row.get(1)?),
        finished_ms: row.get::<_, Option<i64>>(2)?.map(unsigned),
        caller: row.get(3)?,
        address: row.get(4)?,
        request_id: row.get(5)?,
        dialect: row.get(6)?,
        language: row.get(7)?,
        version: row.get(8)?,
        source_sha256: row.get(9)?,
        source_bytes: unsigned(row.get(10)?),
        files: row.get(11)?,
        status: row.get(12)?,
        exit_code: row.get(13)?,
        signal: row.get(14)?,
        message: row.get(15)?,
        wall_time_ms: row.get(16)?,
        cpu_time_ms: row.get(17)?,
        memory_peak_bytes: row.get::<_, Option<i64>>(18)?.map(unsigned),
        queue_time_ms: row.get(19)?,
        stdout_truncated_bytes: unsigned(row.get(20)?),
        stderr_truncated_bytes: unsigned(row.get(21)?),
        denied_syscalls,
        details: None,
    })
}

fn details(row: &Row) -> rusqlite::Result<Details> {
    Ok(Details {
        source: row.get(0)?,
        stdout: row.get::<_, Option<_>>(1)?.unwrap_or_default(),
        stderr: row.get::<_, Option<_>>(2)?.unwrap_or_default(),
        answer_json: row.get(3)?,
        result_json: row.get(4)?,
        logs_json: row.get(5)?,
    })
}
