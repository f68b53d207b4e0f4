# bash completion for syncbn; names of configurations and keys come from the program itself.

_syncbn_configs() { syncbn configs list 2> /dev/null | cut -d' ' -f1 | grep -v ^study/; }
_syncbn_studies() { syncbn configs list 2> /dev/null | sed -n 's/^\(study\/[^ ]*\).*/\1/p'; }
_syncbn_keys() { syncbn train --help 2> /dev/null | sed -n 's/^  \([a-z][a-z0-9_.]*\) (.*/\1=/p'; }

_syncbn() {
  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
  local command=${COMP_WORDS[1]} sub=${COMP_WORDS[2]} words=
  COMPREPLY=()
  if [ "$COMP_CWORD" = 1 ]; then
    mapfile -t COMPREPLY < <(compgen -W 'train study report eval explain doctor data configs --help --version' -- "$current")
    return
  fi
  case $previous in
    --weights | --predictions) mapfile -t COMPREPLY < <(compgen -f -- "$current") && return ;;
    --output | --path) mapfile -t COMPREPLY < <(compgen -d -- "$current") && return ;;
    --split) mapfile -t COMPREPLY < <(compgen -W 'test train' -- "$current") && return ;;
    --ranks | --jobs) return ;;
  esac
  case $command in
    train) words='--resume --output --log-ranks --help' ;;
    study) words='--output --jobs --dry-run --help' ;;
    report) words='--output --help' ;;
    eval) words='--weights --split --predictions --log-ranks --help' ;;
    explain) words='--ranks --measure --sample-us --update-us --latency-us --per-message-us --bandwidth-gbs --skew-us --threads --help' ;;
    doctor) words=--help ;;
    data)
      if [ "$COMP_CWORD" = 2 ]; then words='list get check --help'; else words='mnist fashion-mnist cifar10 cifar100 --path --help'; fi
      ;;
    configs)
      words=--help
      if [ "$COMP_CWORD" = 2 ]; then words='list show copy --help'; elif [ "$COMP_CWORD" = 3 ] && [ "$sub" != list ]; then words="$(_syncbn_configs) $(_syncbn_studies)"; fi
      ;;
  esac
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
  local names=_syncbn_configs
  case $command in
    train | eval | explain) ;;
    study) names=_syncbn_studies ;;
    report) mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -d -- "$current") && return ;;
    *) return ;;
  esac
  if [ "$COMP_CWORD" = 2 ]; then
    mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -W "$($names)" -- "$current" && compgen -f -- "$current")
  else
    mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -W "$(_syncbn_keys)" -- "$current")
    if [[ ${COMPREPLY[0]-} == *= ]]; then compopt -o nospace; fi
  fi
}

complete -o filenames -F _syncbn syncbn
