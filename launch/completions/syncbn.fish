# fish completion for syncbn; names of configurations and keys come from the program itself.

function __syncbn_configs
    syncbn configs list 2>/dev/null | string match -v 'study/*' | string replace -r '  +' \t
end

function __syncbn_studies
    syncbn configs list 2>/dev/null | string match 'study/*' | string replace -r '  +' \t
end

function __syncbn_keys
    syncbn train --help 2>/dev/null | string replace -rf '^  ([a-z][a-z0-9_.]*) \(.*?\)  +(.*)$' '$1=\t$2'
end

set -l runs train eval explain
complete -c syncbn -f
complete -c syncbn -n __fish_use_subcommand -a train -d 'Train as a configuration says'
complete -c syncbn -n __fish_use_subcommand -a study -d 'Train many variants and compare them'
complete -c syncbn -n __fish_use_subcommand -a report -d 'Write the report of studies again'
complete -c syncbn -n __fish_use_subcommand -a eval -d 'Accuracy and loss of stored weights'
complete -c syncbn -n __fish_use_subcommand -a explain -d 'Show layers, sizes, memory and messages'
complete -c syncbn -n __fish_use_subcommand -a doctor -d 'Show what this machine and this launch offer'
complete -c syncbn -n __fish_use_subcommand -a data -d 'List, fetch and check the public data sets'
complete -c syncbn -n __fish_use_subcommand -a configs -d 'List, show and copy the shipped configurations'
complete -c syncbn -n __fish_use_subcommand -l version -d 'Print the version'
complete -c syncbn -l help -d 'Options and examples'
complete -c syncbn -n "__fish_seen_subcommand_from $runs; and test (count (commandline -opc)) -eq 2" -F -a '(__syncbn_configs)'
complete -c syncbn -n "__fish_seen_subcommand_from $runs; and test (count (commandline -opc)) -gt 2" -a '(__syncbn_keys)'
complete -c syncbn -n '__fish_seen_subcommand_from train' -l resume -d 'Go on from the newest checkpoint'
complete -c syncbn -n '__fish_seen_subcommand_from train' -l output -r -F -d 'Run directory'
complete -c syncbn -n '__fish_seen_subcommand_from study; and test (count (commandline -opc)) -eq 2' -F -a '(__syncbn_studies)'
complete -c syncbn -n '__fish_seen_subcommand_from study; and test (count (commandline -opc)) -gt 2' -a '(__syncbn_keys)'
complete -c syncbn -n '__fish_seen_subcommand_from study' -l output -r -F -d 'Folder of the study'
complete -c syncbn -n '__fish_seen_subcommand_from study' -l jobs -x -d 'Trials at once'
complete -c syncbn -n '__fish_seen_subcommand_from study' -l dry-run -d 'Show the trials, train nothing'
complete -c syncbn -n '__fish_seen_subcommand_from report' -F
complete -c syncbn -n '__fish_seen_subcommand_from report' -l output -r -F -d 'HTML file'
complete -c syncbn -n '__fish_seen_subcommand_from train eval' -l log-ranks -d 'Show the messages of all ranks'
complete -c syncbn -n '__fish_seen_subcommand_from eval' -l weights -r -F -d 'File or checkpoint'
complete -c syncbn -n '__fish_seen_subcommand_from eval' -l split -x -a 'test train' -d 'Images'
complete -c syncbn -n '__fish_seen_subcommand_from eval' -l predictions -r -F -d 'CSV file'
complete -c syncbn -n '__fish_seen_subcommand_from explain' -l ranks -x -d 'MPI ranks'
complete -c syncbn -n '__fish_seen_subcommand_from explain' -l measure -d 'Predict the time of a step from figures measured here'
complete -c syncbn -n '__fish_seen_subcommand_from explain' -l sample-us -x -d 'Time of a sample'
complete -c syncbn -n '__fish_seen_subcommand_from explain' -l update-us -x -d 'Time of an update'
complete -c syncbn -n '__fish_seen_subcommand_from explain' -l latency-us -x -d 'Time of an exchange'
complete -c syncbn -n '__fish_seen_subcommand_from explain' -l per-message-us -x -d 'Time of a further rank'
complete -c syncbn -n '__fish_seen_subcommand_from explain' -l bandwidth-gbs -x -d 'GB/s that a rank sends'
complete -c syncbn -n '__fish_seen_subcommand_from explain' -l skew-us -x -d 'Deviation of arrivals'
complete -c syncbn -n '__fish_seen_subcommand_from explain' -l threads -x -d 'Cores of a rank'
complete -c syncbn -n '__fish_seen_subcommand_from data; and not __fish_seen_subcommand_from list get check' -a 'list get check'
complete -c syncbn -n '__fish_seen_subcommand_from get check' -a 'mnist fashion-mnist cifar10 cifar100'
complete -c syncbn -n '__fish_seen_subcommand_from data' -l path -r -F -d 'Folder'
complete -c syncbn -n '__fish_seen_subcommand_from configs; and not __fish_seen_subcommand_from list show copy' -a 'list show copy'
complete -c syncbn -n '__fish_seen_subcommand_from show copy' -a '(__syncbn_configs; __syncbn_studies)'
