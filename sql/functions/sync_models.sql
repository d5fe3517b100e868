-- sync_models: brings the registry in line with what the workers have: what is there is ready, what nobody has is not,
-- and a pull that nobody has worked at for ten minutes is given up. Called by the API, on demand.
create or replace function sync_models(out updated int, out unchanged int)
language plpgsql
as $$
declare
  v_now timestamptz := dalston_now();
  v_all int;
begin
  updated := 0;
  with found as (
    select distinct on (m.model) m.model, m.engine, m.stage, m.size_bytes
      from worker_models m join workers w on w.id = m.worker_id
     where w.last_seen_at > v_now - interval '1 min'
     order by m.model, m.since desc
  ), entered as (
    insert into models (id, engine, stage, status, downloaded_bytes, expected_bytes, downloaded_at, created_at, updated_at)
    select f.model, f.engine, f.stage, 'ready', f.size_bytes, f.size_bytes, v_now, v_now, v_now from found f
    on conflict (id) do update
      set status = 'ready', engine = excluded.engine, stage = excluded.stage, error = null, updated_at = v_now,
          downloaded_bytes = excluded.downloaded_bytes, expected_bytes = excluded.expected_bytes
      where models.status in ('not_downloaded', 'failed') and not models.removing
    returning 1
  ), gone as (
    update models m
       set status = 'not_downloaded', force = false, downloaded_bytes = null, downloaded_at = null,
           transfer_worker = null, transfer_ends_at = null, updated_at = v_now
     where not exists (select from found f where f.model = m.id)
       and (m.status = 'ready' or m.status = 'downloading' and m.progress_at < v_now - interval '10 min')
    returning 1
  )
  select (select count(*) from entered) + (select count(*) from gone) into updated;
  select count(*) into v_all from models;
  unchanged := greatest(v_all - updated, 0);
end
$$;
