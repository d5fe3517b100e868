-- submit_job: makes a job with its tasks and edges, in one statement. Called by the API once the audio is stored.
-- p_job is a NewJob as JSON; p_fair_key comes from take_fair_key, which is called here when it is null. Outcomes:
-- created; existing (the Idempotency-Key was used for the same request: its job); mismatch (it was used for another
-- request); limit (the tenant has p_max_unfinished jobs already).
create or replace function submit_job(
  p_job jsonb, p_max_unfinished int, p_fair_key bigint default null, out outcome text, out job_id uuid, out ready int[]
)
language plpgsql
-- The estimates for a job's few rows are always better than those for any job's, and a plan costs more than they save.
set plan_cache_mode = force_generic_plan
as $$
declare
  v_now timestamptz := dalston_now();
  v_audio jsonb := p_job->'audio';
  v_tenant tenants;
  v_seconds double precision := (v_audio->>'duration')::double precision;
  v_fingerprint text;
begin
  ready := '{}';
  select * into v_tenant from tenants where id = (p_job->>'tenant_id')::uuid;
  if not found then
    raise exception 'no tenant %', p_job->>'tenant_id' using errcode = 'foreign_key_violation';
  end if;

  -- Submits of a tenant pass together while twice as many as can be under way at a time still fit below the limit, and
  -- one at a time after that.
  if unfinished_jobs(v_tenant.id, p_max_unfinished) + 2 * current_setting('max_connections')::int >= p_max_unfinished then
    perform pg_advisory_xact_lock(hashtextextended('dalston submit ' || v_tenant.id, 0));
  end if;

  if p_job->>'idempotency_key' is not null then
    select j.id, j.idempotency_fingerprint into job_id, v_fingerprint
      from jobs j where j.tenant_id = v_tenant.id and j.idempotency_key = p_job->>'idempotency_key';
    if found then
      outcome := case when v_fingerprint is not distinct from p_job->>'idempotency_fingerprint' then 'existing' else 'mismatch' end;
      return;
    end if;
  end if;
  if unfinished_jobs(v_tenant.id, p_max_unfinished) >= p_max_unfinished then
    outcome := 'limit';
    return;
  end if;

  job_id := (p_job->>'id')::uuid;
  insert into jobs (id, tenant_id, created_by_key_id, display_name, parameters, priority, fair_key, open_ends,
                    audio_key, audio_format, audio_duration_seconds, audio_sample_rate, audio_channels, audio_bit_depth,
                    audio_size_bytes, idempotency_key, idempotency_fingerprint, request_id, created_at, retention_days)
  values (job_id, v_tenant.id, (p_job->>'created_by')::uuid, p_job->>'display_name', p_job->'parameters',
          (p_job->>'priority')::smallint, coalesce(p_fair_key, take_fair_key(v_tenant.id, v_seconds)),
          (select count(*) from jsonb_array_elements(p_job->'tasks') t
            where t->>'id' not in (select n from jsonb_array_elements(p_job->'tasks') o,
                                                 jsonb_array_elements_text(o->'needs') n)),
          v_audio->>'key', v_audio->>'format', v_seconds,
          (v_audio->>'sample_rate')::int, (v_audio->>'channels')::int, (v_audio->>'bit_depth')::int,
          (v_audio->>'size_bytes')::bigint, p_job->>'idempotency_key', p_job->>'idempotency_fingerprint',
          p_job->>'request_id', v_now, (p_job->>'retention_days')::int)
  on conflict (tenant_id, idempotency_key) where idempotency_key is not null do nothing;
  if not found then
    -- Another submit with the same key was under way and has ended.
    select s.outcome, s.job_id into outcome, job_id from submit_job(p_job, p_max_unfinished, p_fair_key) s;
    return;
  end if;

  ready := add_tasks(job_id, p_job->'tasks', '{}', null, v_tenant.max_running is not null, v_now);
  if v_tenant.max_running is not null then
    ready := ready || promote_held(array[v_tenant.id], v_now);
  end if;
  perform publish_job_states(array[job_id], v_now);
  outcome := 'created';
end
$$;
