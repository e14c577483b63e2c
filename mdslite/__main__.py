from mdslite.cli import main

main()
