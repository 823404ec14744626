
#compdef lorakit

_lorakit_completion() {
  eval $(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _LORAKIT_COMPLETE=complete_zsh lorakit)
}

compdef _lorakit_completion lorakit

