from minitango.cli import main

main()
