#compdef syncbn
# zsh completion for syncbn; names of configurations and keys come from the program itself.

_syncbn_configs() {
  local -a names
  names=(${(f)"$(syncbn configs list 2> /dev/null | cut -d' ' -f1 | grep -v ^study/)"})
  _describe 'shipped configuration' names
}

_syncbn_studies() {
  local -a names
  names=(${(f)"$(syncbn configs list 2> /dev/null | sed -n 's/^\(study\/[^ ]*\).*/\1/p')"})
  _describe 'shipped study' names
}

_syncbn_config_or_file() { _alternative 'configs:shipped configuration:_syncbn_configs' 'files:file:_files' }

_syncbn_study_or_file() { _alternative 'studies:shipped study:_syncbn_studies' 'files:file:_files' }

_syncbn_keys() {
  local -a keys
  keys=(${(f)"$(syncbn train --help 2> /dev/null | sed -n 's/^  \([a-z][a-z0-9_.]*\) (.*/\1/p')"})
  compadd -S = -- $keys
}

_syncbn() {
  local -a commands
  commands=('train:Train as a configuration says' 'study:Train many variants and compare them'
    'report:Write the report of studies again' 'eval:Accuracy and loss of stored weights'
    'explain:Show layers, sizes, memory and messages of a configuration'
    'doctor:Show what this machine and this launch offer' 'data:List, fetch and check the public data sets'
    'configs:List, show and copy the shipped configurations')
  if ((CURRENT == 2)); then
    compadd -- --help --version
    _describe 'command' commands
    return
  fi
  local command=$words[2]
  shift words
  ((CURRENT--))
  case $command in
    train)
      _arguments '--resume[go on from the newest checkpoint]' '--output[run directory]:folder:_files -/' \
        '--log-ranks[show the messages of all ranks]' '1:configuration:_syncbn_config_or_file' '*:key:_syncbn_keys'
      ;;
    study)
      _arguments '--output[folder of the study]:folder:_files -/' '--jobs[trials at once]:trials:' \
        '--dry-run[show the trials, train nothing]' '1:study:_syncbn_study_or_file' '*:key:_syncbn_keys'
      ;;
    report) _arguments '--output[HTML file]:file:_files' '*:study:_files -/' ;;
    eval)
      _arguments '--weights[file or checkpoint]:file:_files' '--split[images]:split:(test train)' '--predictions[CSV file]:file:_files' \
        '--log-ranks[show the messages of all ranks]' '1:configuration or run:_syncbn_config_or_file' '*:key:_syncbn_keys'
      ;;
    explain) _arguments '--ranks[MPI ranks]:ranks:' '--measure[predict the time of a step from figures measured here]' \
      '--sample-us[time of a sample]:us:' '--update-us[time of an update]:us:' '--latency-us[time of an exchange]:us:' \
      '--per-message-us[time of a further rank]:us:' '--bandwidth-gbs[GB/s that a rank sends]:GB/s:' \
      '--skew-us[deviation of arrivals]:us:' '--threads[cores of a rank]:cores:' '1:configuration:_syncbn_config_or_file' '*:key:_syncbn_keys' ;;
    data) _arguments '1:action:(list get check)' '--path[folder]:folder:_files -/' '*:set:(mnist fashion-mnist cifar10 cifar100)' ;;
    configs) _arguments '1:action:(list show copy)' '2:configuration:_syncbn_configs' '3:file:_files' ;;
  esac
}

_syncbn "$@"
