create table workers (
  id            uuid primary key,
  hostname      text not null,
  identity      text,
  version       text not null,
  device        text not null,
  slots         int not null check (slots > 0),
  active_tasks  int not null default 0 check (active_tasks >= 0),
  loaded_models text[] not null default '{}',
  model_bytes   bigint[] not null default '{}',
  draining      boolean not null default false,
  started_at    timestamptz not null,
  last_seen_at  timestamptz not null
) with (fillfactor = 50);

create index workers_of_identity on workers (identity) where identity is not null;

comment on table workers is 'Worker processes: one row per run, refreshed by heartbeats, forgotten when they stop or stay silent.';
comment on column workers.id is 'This run of the process; a restarted worker gets a new one.';
comment on column workers.hostname is 'Host it runs on.';
comment on column workers.identity is 'What stays the same when this very worker is restarted. A new run takes over from older runs of the same identity.';
comment on column workers.version is 'Version of the program.';
comment on column workers.device is 'Where its models run: cpu or cuda.';
comment on column workers.slots is 'Tasks it runs at a time.';
comment on column workers.active_tasks is 'Tasks it said it was running at its last heartbeat.';
comment on column workers.loaded_models is 'Models in its memory at its last heartbeat.';
comment on column workers.model_bytes is 'Memory of each of loaded_models in bytes; null where unknown.';
comment on column workers.draining is 'Asked to stop claiming, finish and exit; see drain_worker().';
comment on column workers.started_at is 'When it registered.';
comment on column workers.last_seen_at is 'Last heartbeat.';

create table worker_capabilities (
  worker_id         uuid not null references workers on delete cascade,
  capability_id     int not null references capabilities,
  languages         text[],
  native_words      boolean not null,
  translates        boolean not null,
  size_bytes        bigint not null check (size_bytes >= 0),
  device            text not null,
  vocabulary_method text not null,
  primary key (worker_id, capability_id)
);

create index worker_capabilities_by_capability on worker_capabilities (capability_id);

comment on table worker_capabilities is 'What each worker can run, with what a planner must know to choose it.';
comment on column worker_capabilities.worker_id is 'The worker.';
comment on column worker_capabilities.capability_id is 'What it can run.';
comment on column worker_capabilities.languages is 'Languages the model knows (ISO 639-1); null when multilingual without a fixed list.';
comment on column worker_capabilities.native_words is 'The engine gives word times itself.';
comment on column worker_capabilities.translates is 'The model can translate to English.';
comment on column worker_capabilities.size_bytes is 'Size of the model''s files.';
comment on column worker_capabilities.device is 'Where it really runs: cpu or cuda.';
comment on column worker_capabilities.vocabulary_method is 'How the engine uses a vocabulary: prompt_conditioning, phrase_boosting or none.';
