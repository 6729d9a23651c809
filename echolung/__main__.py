from echolung.cli.main import main

main()
