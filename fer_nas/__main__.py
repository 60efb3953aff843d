from fer_nas.cli import main

main()
