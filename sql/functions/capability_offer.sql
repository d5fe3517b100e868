-- capability_offer: a worker's capability as the programs read it, an OfferedCapability. Called by views.
create or replace function capability_offer(p_capability capabilities, p_offered worker_capabilities) returns jsonb
language sql stable
as $$
  select jsonb_build_object(
    'stage', p_capability.stage, 'engine', p_capability.engine, 'model', p_capability.model,
    'languages', p_offered.languages, 'native_words', p_offered.native_words,
    'alignment_method', p_offered.alignment_method, 'translates', p_offered.translates,
    'streaming', p_offered.streaming, 'max_audio_seconds', p_offered.max_audio_seconds,
    'size_bytes', p_offered.size_bytes, 'memory_bytes', p_offered.memory_bytes, 'device', p_offered.device,
    'execution_provider', p_offered.execution_provider, 'vocabulary_method', p_offered.vocabulary_method)
$$;
