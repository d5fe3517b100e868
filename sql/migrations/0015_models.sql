create table models (
  id               text primary key check (id <> ''),
  engine           text,
  stage            text,
  status           text not null default 'not_downloaded'
                   check (status in ('not_downloaded', 'downloading', 'ready', 'failed')),
  force            boolean not null default false,
  expected_bytes   bigint check (expected_bytes >= 0),
  downloaded_bytes bigint check (downloaded_bytes >= 0),
  progress_at      timestamptz,
  downloaded_at    timestamptz,
  error            text,
  transfer         bigint not null default 0,
  transfer_worker  uuid,
  transfer_ends_at timestamptz,
  transfer_attempt int not null default 0,
  removing         boolean not null default false,
  stored           jsonb,
  overrides        jsonb not null default '{}' check (jsonb_typeof(overrides) = 'object'),
  hub              jsonb not null default '{}' check (jsonb_typeof(hub) = 'object'),
  last_used_at     timestamptz,
  created_at       timestamptz not null,
  updated_at       timestamptz not null,
  constraint a_failed_pull_has_an_error check (status <> 'failed' or error is not null),
  constraint a_transfer_ends check ((transfer_worker is null) = (transfer_ends_at is null))
);

create index models_of_workers_to_do on models (id) where status = 'downloading' or removing or stored is not null;

comment on table models is 'What is known of models beyond the catalogue: pulls asked for and how far they are, what the object store holds, what users said. A model that nobody touched has no row.';
comment on column models.id is 'Model id, for example onnx-community/whisper-base.';
comment on column models.engine is 'Engine that runs it; null until known.';
comment on column models.stage is 'Stage it serves; null until known.';
comment on column models.status is 'How its last pull stands. Whether it can be used is for the workers that have it to say: see model_registry.';
comment on column models.force is 'The pull is to fetch it although it is there.';
comment on column models.expected_bytes is 'Bytes a pull has; null until known.';
comment on column models.downloaded_bytes is 'Bytes of the pull that have arrived.';
comment on column models.progress_at is 'When that was last said.';
comment on column models.downloaded_at is 'When its last pull ended well.';
comment on column models.error is 'Why its last pull failed.';
comment on column models.transfer is 'Fencing token of pulls and copies to the object store: grows with every claim, never reset.';
comment on column models.transfer_worker is 'Worker that pulls it, or copies it to the object store, now.';
comment on column models.transfer_ends_at is 'When that worker''s claim runs out, unless it extends it.';
comment on column models.transfer_attempt is 'Claims of the present pull; workers that die on it use them up.';
comment on column models.removing is 'Workers that have it are to delete its files.';
comment on column models.stored is 'Its manifest, when the object store has all its files; else null.';
comment on column models.overrides is 'What users said of it; goes before what catalogue and workers say.';
comment on column models.hub is 'What the hub says of it: library_name, pipeline_tag, tags, downloads, likes.';
comment on column models.last_used_at is 'When it was last in the memory of a worker that worked, to the hour.';
comment on column models.created_at is 'When it was first touched.';
comment on column models.updated_at is 'When its row last changed, progress apart.';

create table worker_models (
  worker_id  uuid not null references workers on delete cascade,
  model      text not null,
  engine     text not null,
  stage      text not null,
  size_bytes bigint not null check (size_bytes >= 0),
  component  boolean not null,
  folder     text not null,
  since      timestamptz not null,
  primary key (worker_id, model)
);

create index worker_models_by_model on worker_models (model);

comment on table worker_models is 'The models on each worker''s disk, also those that run no task by themselves.';
comment on column worker_models.worker_id is 'The worker.';
comment on column worker_models.model is 'Model id.';
comment on column worker_models.engine is 'Engine that runs it.';
comment on column worker_models.stage is 'Stage it serves.';
comment on column worker_models.size_bytes is 'Size of its files.';
comment on column worker_models.component is 'It is a part that other models of its stage need.';
comment on column worker_models.folder is 'Its folder on that worker.';
comment on column worker_models.since is 'When it was put there, by that worker''s clock.';
