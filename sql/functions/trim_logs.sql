-- trim_logs: deletes at most p_limit rows each of what is older than p_keep_seconds: events of finished jobs, messages
-- of job_events that nobody archived, and idle rate-limit counters. Called by maintenance. Answers how many rows went.
create or replace function trim_logs(p_keep_seconds double precision, p_limit int) returns bigint
language plpgsql
as $$
declare
  v_before timestamptz := dalston_now() - make_interval(secs => p_keep_seconds);
  v_events bigint;
  v_messages bigint;
  v_counts bigint;
begin
  delete from job_log where id = any(array(
    select l.id from (select * from job_log order by id limit p_limit) l
     where l.at < v_before
       and not exists (select from jobs j where j.id = l.job_id and j.completed_at is null)));
  get diagnostics v_events = row_count;
  delete from pgmq.q_job_events where msg_id = any(array(
    select msg_id from pgmq.q_job_events where enqueued_at < v_before order by msg_id limit p_limit));
  get diagnostics v_messages = row_count;
  delete from request_counts where minute < extract(epoch from dalston_now())::bigint / 60 - 60;
  get diagnostics v_counts = row_count;
  return v_events + v_messages + v_counts;
end
$$;
