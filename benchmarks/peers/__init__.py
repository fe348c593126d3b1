"""What a user would pick instead, each as a script that is run as a process of its own."""
