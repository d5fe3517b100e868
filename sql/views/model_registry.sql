-- model_registry: every model that somebody touched or has, and how it stands.
create view model_registry as
select coalesce(m.id, h.model) as id, coalesce(h.engine, m.engine) as engine, coalesce(h.stage, m.stage) as stage,
       case when m.status = 'downloading' then 'downloading'
            when h.model is not null and not coalesce(m.removing, false) then 'ready'
            when m.status = 'failed' then 'failed'
            else 'not_downloaded' end as status,
       coalesce(m.removing, false) as removing, coalesce(h.workers, 0) as workers, h.size_bytes, h.component, h.folder,
       m.expected_bytes, m.downloaded_bytes, m.progress_at, coalesce(m.downloaded_at, h.since) as downloaded_at, m.error,
       m.stored is not null as stored, coalesce(m.overrides, '{}') as overrides, coalesce(m.hub, '{}') as hub,
       m.last_used_at, least(m.created_at, h.oldest) as created_at, coalesce(m.updated_at, h.since) as updated_at
  from models m
  full join (
    select w.model, min(w.engine) as engine, min(w.stage) as stage, count(*) as workers, max(w.size_bytes) as size_bytes,
           bool_or(w.component) as component, min(w.folder) as folder, min(w.since) as since,
           (select min(o.since) from worker_models o where o.model = w.model) as oldest
      from worker_models w join workers v on v.id = w.worker_id
     where v.last_seen_at > dalston_now() - interval '1 min' group by w.model) h on h.model = m.id;

comment on view model_registry is 'Every model that somebody touched or a live worker has, and how it stands. Models of the catalogue that nobody touched are not in it.';
comment on column model_registry.id is 'Model id, for example onnx-community/whisper-base.';
comment on column model_registry.engine is 'Engine that runs it; null until known.';
comment on column model_registry.stage is 'Stage it serves; null until known.';
comment on column model_registry.status is 'not_downloaded, downloading, ready (a live worker has it) or failed.';
comment on column model_registry.workers is 'Live workers that have it on their disk.';
comment on column model_registry.stored is 'The object store has it, for workers that fetch their models from there.';
comment on column model_registry.created_at is 'When it was first touched, or put on a worker, whichever was earlier.';
